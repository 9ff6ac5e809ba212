"""The call of a request: the verb and every model that it names (`call`), read as the model server reads it or refused.

`surface` says what a wire surface gives the proxy, `surfaces` lists those that there are. TensorFlow Serving's is
`tfserving`, made of the files that begin so. What any surface can use: `body_scan` finds the models of a gRPC body and
`body_rewrite` writes another version into it while it passes, `protobuf`, `fields` and `inflate` read bodies without
holding them, `answers` compares outputs.
"""
