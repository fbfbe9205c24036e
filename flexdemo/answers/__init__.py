"""Methods, answers and what explains them: from one request to a Result. Knows no page and no files of data."""
