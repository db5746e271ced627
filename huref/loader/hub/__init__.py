"""The Hub: repositories at one commit, files read in ranges, limits and retries."""
