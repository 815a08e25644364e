"""What runs leave on disk: the record of a run and the list of a study's runs."""
