"""Recording from training frameworks: thin adapters of `infoplane.hooks.Recorder`.

`infoplane.integrations.lightning`, `.transformers` and `.accelerate` each need the library of that name, as
`pip install 'infoplane[lightning]'` or `'infoplane[hf]'` brings it; nothing is
imported before they are. `.tensorboard` and `.figures` take the writer, or the run of Weights & Biases,
that the user has.
"""
