"""API keys, the tenants that they belong to, and the tenant of the request that a task serves.

tenant     a tenant: its limits, its weight among tenants, what its key allows
caller     the tenant of the request that the running task serves
key_file   the file of keys' digests, names and limits
keyring    the keys that hold now, and each request's tenant
account    the tokens that this request takes from the engine
"""
