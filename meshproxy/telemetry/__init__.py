"""What is told of an exchange, once, when it is over: `observer` shows it to metrics (`catalogue`), access log and
audit trail. `trace` carries a caller's trace on while the exchange is under way.
"""
