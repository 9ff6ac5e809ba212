"""A stand-in for a node of Kubernetes: what a kubelet, a scheduler and kube-proxy do for a few pods, with processes in
the place of containers.

    spec.py         what is read of a pod, and what cannot be run here
    probing.py      one probe: when it is due, and what its results come to. Pure
    lifecycle.py    one pod: what is to be done next. Pure
    status.py       one pod: what is reported of it. Pure
    fields.py       values that a pod has from its own object: environment, downward API. Pure
    volumes.py      the files of a volume
    tokens.py       tokens of service accounts
    sandbox.py      the command that runs a container in namespaces of its own. Pure
    services.py     addresses of Services to those of pods, as rules of nftables. Pure
    names.py        names of Services, by DNS
    network.py      the machine, and the network of each pod
    process.py      a container as a process
    probes.py       one probe, carried out
    worker.py       one pod, from its first container to its end
    node.py         the nodes: pods are bound, run and reported
"""
