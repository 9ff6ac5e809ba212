"""The control plane: one process for many sidecars, which issues and renews their identities.

app          builds the parts in order, and runs them until the process ends
authority    signs the certificates of workloads
attestation  who asks for a certificate: join tokens, or the certificate that is to be renewed
channel      the port of the sidecars, gRPC over mTLS
"""
