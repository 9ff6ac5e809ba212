"""The data plane's process: `app` builds every part in order on one page, `configuration` replaces what documents
decide, `rotation` the workload's certificate; both take what their source (`document_source`, `identity_source`)
delivers. `tokens` and `fetch` keep the keys of issuers, `drain` ends the process, `admin` answers operators. With
several workers, `supervisor` keeps them alive, `overview` answers operators for all of them, and `worker` is what both
have in common."""
