"""What is called: the verb and every model that a request names (`call`), read as the model server reads it or refused.

One file for each wire surface; `protobuf` and `inflate` look into bodies without holding them.
"""
