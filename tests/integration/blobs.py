"""A large value there and back through PyMySQL, compared by its digest on both sides.

Arguments: host, port, user, password, schema, table, size in MiB.
"""

import hashlib
import random
import sys

import pymysql

host, port, user, password, schema, table, size = sys.argv[1:8]
blob = random.Random(int(size)).randbytes(int(size) << 20)

connection = pymysql.connect(
    host=host, port=int(port), user=user, password=password, database=schema, charset="utf8mb4",
    read_timeout=120, write_timeout=120)
with connection.cursor() as cursor:
    cursor.execute(f"DROP TABLE IF EXISTS {table}")
    cursor.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY, data LONGBLOB)")
    cursor.execute(f"INSERT INTO {table} VALUES (1, _binary %s)", (blob,))
    print("inserted", cursor.rowcount)
    cursor.execute(f"SELECT LENGTH(data), SHA2(data, 256) FROM {table}")
    print("on the server", cursor.fetchall(), "here", hashlib.sha256(blob).hexdigest())
    cursor.execute(f"SELECT data, 'after' FROM {table}")
    row = cursor.fetchone()
    print("came back", len(row[0]), hashlib.sha256(row[0]).hexdigest(), row[0] == blob, row[1])
    cursor.execute(f"DROP TABLE {table}")
    cursor.execute("SELECT 'alive'")
    print(cursor.fetchall())
connection.close()
