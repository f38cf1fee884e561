"""One process of the bridge: the only place that constructs, starts and stops.

`components` is what a process has, built once from the settings (a command needs no more); `build_doors` and
`build_engine` make what a bridge worker runs beside them; `process` starts and stops those in order.
"""
