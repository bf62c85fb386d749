-- The statements of `make bench` that sysbench's own scripts do not send.

sysbench.cmdline.options = {
   statement = { "rows, blob, insert or connect", "rows" },
   rows = { "Rows in sbtest1", 10000 },
}

local function rows(con)
   local first = sysbench.rand.default(1, sysbench.opt.rows - 999)
   con:query(string.format("SELECT id, c FROM sbtest1 WHERE id BETWEEN %d AND %d", first, first + 999))
end

local function blob(con)
   con:query("SELECT content FROM blob16 WHERE id = 1")
end

local megabyte = string.rep("x", 1024 * 1024)

local function insert(con)
   con:query("INSERT INTO sink (content) VALUES ('" .. megabyte .. "')")
end

function thread_init()
   driver = sysbench.sql.driver()
   local kind = sysbench.opt.statement
   if kind == "connect" then
      event = function()
         local con = driver:connect()
         con:query("SELECT 1")
         con:disconnect()
      end
      return
   end
   local con = driver:connect()
   local send = ({ rows = rows, blob = blob, insert = insert })[kind]
   event = function() send(con) end
end

function event()
   error("replaced by thread_init")
end
