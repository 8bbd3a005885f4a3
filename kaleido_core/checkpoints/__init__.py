"""Weights files: read in any common layout, written in Wan's.

``load`` builds modules, ``convert`` rewrites a file tensor by tensor, ``info`` describes one. Underneath: ``readers``
map files and ``source`` finds them, ``layouts`` knows the names and ``fp8`` the scales, ``weights`` joins all these,
``sizes`` turns shapes and metadata into a config, ``save`` writes.
"""
