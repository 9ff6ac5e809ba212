"""How a pod gets its sidecar. Pure: from a pod and the settings of the mesh to a patch (RFC 6902), a skip or a refusal.

inject        the decision, for one pod
pod           what is looked at of a pod
annotations   what a pod may choose: config.meshproxy.dev/*
sidecar       the container, its volumes and its own document
drain_hook    how a model server that ignores SIGTERM ends
probes        probes of the application that would break
record        what was changed, so that it can be taken back
settings      what an operator chooses
admission     reviews of the API server, and answers to them
webhook_configuration  what makes it ask
policies, cel  the same without a webhook, and no pods without sidecar
objects       pods and pod templates in Kubernetes objects
yaml_edit     changes of YAML that leave every other byte as it is
capture       rules of nftables that lead connections to the sidecar
capture_container
              the init container that puts them into force
manifests     files of Kubernetes objects, with and without the sidecar
"""
