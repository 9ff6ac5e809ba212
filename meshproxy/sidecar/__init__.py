"""The sidecar process: `app` builds all components in order, `configuration` replaces what documents
decide, `rotation` the workload's certificate; both take what their source (`document_source`, `identity_source`)
delivers. `tokens` and `key_refresher` keep the keys of issuers, `drain` is the graceful shutdown, `admin` the admin
port. With several workers, `supervisor` starts and restarts them (`worker_process`), and `worker` has what both
share."""
