"""The data plane's process: `app` builds every part in order on one page, `reload` replaces what documents decide,
`admin` answers operators."""
