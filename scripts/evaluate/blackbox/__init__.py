"""What `huref probe` recovers from served models, against the models' weights."""
