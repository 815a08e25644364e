"""The table of a study, statistics, Shapley values, comparison of studies and published numbers, from records."""
