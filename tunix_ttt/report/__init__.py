"""HTML pages, plots, model cards and before-after reports of finished runs."""
