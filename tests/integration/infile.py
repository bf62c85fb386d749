"""LOAD DATA LOCAL INFILE through PyMySQL.

Arguments: host, port, user, password, schema, table, file.
"""

import sys

import pymysql

host, port, user, password, schema, table, path = sys.argv[1:8]

connection = pymysql.connect(
    host=host, port=int(port), user=user, password=password, database=schema, charset="utf8mb4",
    local_infile=True, read_timeout=120, write_timeout=120)
with connection.cursor() as cursor:
    cursor.execute(f"DROP TABLE IF EXISTS {table}")
    cursor.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY, text VARCHAR(200))")
    for name in (path, path + ".missing"):
        try:
            count = cursor.execute(f"LOAD DATA LOCAL INFILE '{name}' INTO TABLE {table}")
            print("loaded", count)
        except (pymysql.MySQLError, OSError) as error:
            print("failed", type(error).__name__, error.args[0])
        cursor.execute(f"SELECT COUNT(*), SUM(id), SUM(CRC32(text)) FROM {table}")
        print(cursor.fetchall())
    cursor.execute(f"DROP TABLE {table}")
connection.close()
