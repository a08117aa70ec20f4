// Express and better-sqlite3, one durable transaction for each request.
const express = require("express");
const Database = require("better-sqlite3");

const db = new Database(`${process.env.BENCH_FOLDER}/express.db`);
db.pragma("journal_mode = WAL");
db.pragma("synchronous = FULL");
db.exec("CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, message_id TEXT UNIQUE, body TEXT)");
const add = db.prepare("INSERT INTO events (message_id, body) VALUES (?, ?) ON CONFLICT DO NOTHING");
const store = db.transaction((event) => add.run(event.messageId, JSON.stringify(event)));

const app = express();
app.use(express.json());
app.post("/subscriptions/acme-crm", (request, response) => {
  store(request.body);
  response.status(202).json({ message: "Accepted." });
});
app.listen(Number(process.env.BENCH_PORT), "127.0.0.1");
