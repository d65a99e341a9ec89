"""HTTP serving that the exporter and the admin API share."""
