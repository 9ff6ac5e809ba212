"""The caller: the workload of the peer's certificate (`peer`), the claims of a verified token (`tokens`, with the keys
of issuers in `jwk` and `keys`), the AWS IAM role behind one (`iam`); together a `Caller`. And the sidecar's own
identity (`certificates`).
"""
