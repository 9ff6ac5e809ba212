"""The data plane's process: `app` builds every part in order on one page, `reload` replaces what documents decide,
`tokens` and `fetch` keep the keys of issuers, `admin` answers operators. With several workers, `supervisor` keeps them
alive, `overview` answers operators for all of them, and `worker` is what both sides have in common."""
