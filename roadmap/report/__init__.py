"""Reports: wording, tables, figures, diagrams and the HTML page."""
