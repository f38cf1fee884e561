"""HTTP itself, whatever is said over it: answers, the words of ASGI, listening on a socket, who may call.

It knows nothing of jobs. Everything above hands it `Answer`s.
"""
