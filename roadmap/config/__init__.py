"""What to run: schema, validation, steps and transforms read from YAML, composition, study designs, schedules."""
