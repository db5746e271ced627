"""The steps of action.yml: huref installed and run on GitHub."""
