"""From numbers to reports: wording, tables, figures, diagrams and the HTML page."""
