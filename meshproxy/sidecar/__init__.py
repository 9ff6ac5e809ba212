"""The data plane's process: `app` builds every part in order on one page, `reload` replaces what documents decide,
`tokens` and `fetch` keep the keys of issuers, `admin` answers operators."""
