"""The plain JSON contract as models, and what is made of them: JSON Schemas and the AsyncAPI document.

`models` names every document of it; `documents` is what the bridge tells, `events` the CloudEvents around it.
`asyncapi` describes its channels, and `compatibility` says whether a schema only adds to one that was released.
"""
