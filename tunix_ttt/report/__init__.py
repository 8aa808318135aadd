"""HTML pages, plots, model cards and delta reports of finished runs."""
