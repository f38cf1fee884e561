"""HTTP to RunPod, whatever is asked: connections, one exchange, its answer read whole.

`pools` keeps connections open, `proxy` says the way out, `exchange` sends and reads; `answer_reader` waits for many
answers with one thread; `sent` says whether a call may have left this process.
"""
