"""The sidecar process: `app` builds all components in order, `configuration` replaces what documents decide, `rotation`
the workload's certificate; both take what their source (`document_source`, `identity_source`) delivers. `control_link`
is the link to a control plane: `enrollment` for the identity, `control_documents` for the documents, over
`control_channel`. `tokens` and `key_refresher` keep the keys of issuers, `drain` is the graceful shutdown, `admin` the
admin port. With several workers, `supervisor` starts and restarts them (`worker_process`), and `worker` has what both
share."""

WORKER = "--worker="
"""How the arguments of a worker's process begin (`worker.WorkerSlot`)."""
