"""Data sets in, results tables out: records, journal, evaluation, summary. Knows no page."""
