"""Statements through PyMySQL: prints every answer, so that two runs can be compared line by line.

Arguments: host, port, user, password, schema, prefix of the tables that this run makes.
"""

import datetime
import decimal
import sys

import pymysql
from pymysql.constants import CLIENT

host, port, user, password, schema, prefix = sys.argv[1:7]


def connect(**options):
    return pymysql.connect(
        host=host, port=int(port), user=user, password=password, database=schema, charset="utf8mb4",
        read_timeout=60, write_timeout=60, **options)


def show(what, *values):
    print(what, *[repr(value) for value in values])


connection = connect(client_flag=CLIENT.MULTI_STATEMENTS)
table = prefix + "things"


def run(sql, arguments=None):
    with connection.cursor() as cursor:
        try:
            affected = cursor.execute(sql, arguments)
            show(sql, affected, cursor.lastrowid, cursor.description, cursor.fetchall())
            while cursor.nextset():
                show("  next", cursor.description, cursor.fetchall())
        except pymysql.MySQLError as error:
            show(sql, type(error).__name__, error.args)
        connection.show_warnings() and show("  warnings", connection.show_warnings())


run(f"DROP TABLE IF EXISTS {table}")
run(f"""CREATE TABLE {table} (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(60), price DECIMAL(10,2),
        ratio DOUBLE, born DATE, seen DATETIME(6), data VARBINARY(300), flags SET('a','b'), UNIQUE (name))""")

# Values of every common type, there and back.
rows = [
    ("plain", decimal.Decimal("12.50"), 0.5, datetime.date(2000, 2, 29),
     datetime.datetime(2026, 11, 24, 1, 2, 3, 456789), b"\x00\xff'\"\\\n", "a,b"),
    ("Ünïcode 水 🚰", decimal.Decimal("-0.01"), -1e300, datetime.date(1000, 1, 1),
     datetime.datetime(9999, 12, 31, 23, 59, 59, 999999), bytes(range(256)), ""),
    ("nothing", None, None, None, None, None, None),
]
for row in rows:
    run(f"INSERT INTO {table} (name, price, ratio, born, seen, data, flags) "
        "VALUES (%s, %s, %s, %s, %s, _binary %s, %s)", row)
run(f"SELECT * FROM {table} ORDER BY id")
run(f"SELECT COUNT(*), SUM(price), MAX(seen) FROM {table}")
run("SELECT 'it''s', \"two\", _utf8mb4'水', NULL, 1.5e0, TRUE, X'4D61', '' AS empty")
run("SELECT 1 WHERE FALSE")

# Errors of the server come through as they are, and the connection lives on.
run("SELEC 1")
run("SELECT * FROM no_such_table")
run(f"INSERT INTO {table} (name) VALUES ('plain')")
run("SELECT no_such_column")
run("CREATE DATABASE not_for_this_user")
run("SELECT 'still here'")
run("SELECT CAST('12x' AS INT)")

# Transactions.
connection.begin()
run(f"UPDATE {table} SET name = 'changed' WHERE id = 1")
run(f"SELECT name FROM {table} WHERE id = 1")
connection.rollback()
run(f"SELECT name FROM {table} WHERE id = 1")
connection.begin()
run(f"DELETE FROM {table} WHERE id = 1")
run("SAVEPOINT here")
run(f"DELETE FROM {table}")
run("ROLLBACK TO here")
connection.commit()
run(f"SELECT id FROM {table}")
connection.autocommit(False)
run("SELECT @@autocommit, @@in_transaction")
run(f"SELECT id FROM {table}")
run("SELECT @@in_transaction")
connection.rollback()
connection.autocommit(True)

# A second connection sees what was committed and nothing else, and gets its deadlock.
second = connect()
with second.cursor() as cursor:
    connection.begin()
    run(f"INSERT INTO {table} (id, name) VALUES (50, 'open')")
    cursor.execute(f"SELECT COUNT(*) FROM {table}")
    show("second, before commit", cursor.fetchall())
    connection.commit()
    cursor.execute(f"SELECT COUNT(*) FROM {table}")
    show("second, after commit", cursor.fetchall())
    cursor.execute("SET innodb_lock_wait_timeout = 1")
    connection.begin()
    run(f"UPDATE {table} SET price = 1 WHERE id = 50")
    try:
        cursor.execute(f"UPDATE {table} SET price = 2 WHERE id = 50")
    except pymysql.MySQLError as error:
        show("second, lock wait", error.args)
    connection.rollback()
second.close()

# What a session keeps.
run("SET @mine = 7, SESSION sql_mode = 'ANSI_QUOTES', time_zone = '+03:00', NAMES latin1")
run('SELECT @mine, @@sql_mode, @@time_zone, @@character_set_client, "id" FROM ' + table + " LIMIT 1")
run("SET NAMES utf8mb4, SESSION sql_mode = DEFAULT")
run(f"CREATE TEMPORARY TABLE {prefix}temporary (n INT)")
run(f"INSERT INTO {prefix}temporary VALUES (1), (2), (3)")
run(f"SELECT SUM(n) FROM {prefix}temporary")
run("SELECT GET_LOCK(CONCAT(%s, 'lock'), 1)", (prefix,))
run("SELECT LAST_INSERT_ID(99)")
run("SELECT LAST_INSERT_ID(), FOUND_ROWS(), ROW_COUNT()")
run("SELECT DATABASE(), SUBSTRING_INDEX(USER(), '@', 1), CURRENT_USER()")

# Several statements at once, several results at once.
run("SELECT 1; SELECT 2, 3; SET @x = 1; SELECT @x")
run("SELECT 1; SELECT wrong; SELECT 3")
run(f"DROP PROCEDURE IF EXISTS {prefix}both")
run(f"""CREATE PROCEDURE {prefix}both (IN a INT, OUT b INT)
        BEGIN SELECT a; SELECT a + 1, 'two'; SET b = a * 2; END""")
with connection.cursor() as cursor:
    cursor.callproc(f"{prefix}both", (20, 0))
    show("call", cursor.fetchall())
    while cursor.nextset():
        show("  next", cursor.fetchall())
run(f"SELECT @_{prefix}both_1")
run(f"PREPARE s FROM 'SELECT ? + 1'; SET @v = 41; EXECUTE s USING @v; DEALLOCATE PREPARE s")

# Many rows, read one by one; then a result that is left half read.
with connect(cursorclass=pymysql.cursors.SSCursor) as streaming:
    with streaming.cursor() as cursor:
        cursor.execute("SELECT seq, REPEAT('x', seq % 100) FROM seq_1_to_20000")
        show("streamed", sum(number * len(text) for number, text in cursor))
    with streaming.cursor() as cursor:
        # Rows are on their way when the subquery meets its second row.
        cursor.execute("SELECT seq, (SELECT n FROM (SELECT 1 AS n UNION ALL SELECT 2) t WHERE outside.seq > 15000) "
                       "FROM seq_1_to_20000 outside")
        count = 0
        try:
            while cursor.fetchone():
                count += 1
        except pymysql.MySQLError as error:
            show("error after rows", count, error.args)
    with streaming.cursor() as cursor:
        cursor.execute("SELECT 'alive'")
        show("afterwards", cursor.fetchall())

connection.ping(reconnect=False)
connection.select_db(schema)
run("SELECT DATABASE()")
try:
    connection.select_db("no_such_schema")
except pymysql.MySQLError as error:
    show("select_db", error.args)
run("SELECT DATABASE()")
show("escaped", connection.escape("it's \\ \x00"))
run(f"DROP PROCEDURE {prefix}both")
run(f"DROP TABLE {table}")
connection.close()
