"""The same work on a Ray cluster: sampling and scoring by long-lived actors under one limiter and one budget.

`gate`, `leases` and `shards` know no Ray and are laws of their own; `cluster`, `actors`, `pool` and `remote`
put them on a cluster, `training` a fit by several workers. Whoever imports those imports Ray, which
the command line does only where `--engine ray` is asked for. Commands stand in `cli`, SQL in `store`.
"""
