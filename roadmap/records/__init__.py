"""What runs write to disk: the record of each run and the list of a study's runs."""
