"""The page of `huref serve`: two models named, two dogs and a verdict shown.

`app` has the routes, `guard` says whose requests are answered, `names` which models may be read,
`jobs` queues measurements for the processes of `worker`, and `measure` has what these do.
"""
