"""The control plane: one process for many sidecars, which issues their identities and gives them documents.

app           builds the parts in order, and runs them until the process ends
authority     signs the certificates of workloads
authority_secret
              a Secret of Kubernetes with it
attestation   who asks for a certificate: a token, or the certificate that is to be renewed
service_accounts, token_review, offline_tokens
              which pod shows the token of its service account, by the API server or by the keys of the cluster
channel       the methods of sidecars that are about identities
issued_keys   keys that have a certificate, of which none gets another
webhook       the port of the injector, for the API server of Kubernetes
webhook_bundle  the authority by which the API server knows it
cluster       the client of the API server of Kubernetes
roots         the trust bundle on its way to the sidecars
leaves        the certificates that are out, and what the holder of each `leaf` has
root_rotation the steps from one root to the next; `rotator` takes them, `current_authority` notices
documents     the documents in force
distribution  their way to the sidecars, and which of those has what
lost          the sidecars that are gone
election      which control plane leads, by a `lease`
status_writer tells the objects of the cluster what became of them (`object_status`)
objects       the documents that are objects of a cluster
selection     which versions of them are in force
slices        EndpointSlices -> the endpoints of a Service; `service_watch` follows them
endpoints     the endpoints of the Services that documents name
discovery     their way to the sidecars
reflector     a copy of the objects of one kind in the API server
store         the folder that is kept
status        what it says about itself and its sidecars; `web_port` shows it
fleet         all sidecars of several control planes, and what is wrong with each
check         what is wrong with a mesh, and what to do next
"""
