"""RunPod's API: what is asked, what it answers, and what that means. Knows nothing of the ledger.

`client` has a method for each of `operations` (`batches` those of the Batch API); `meaning` is the table of answers.
`http/` carries the calls, `limits/` says how many of them all processes together may make.
"""
