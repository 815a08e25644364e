"""From records to numbers: the table of a study, statistics, Shapley values, comparisons, published numbers."""
