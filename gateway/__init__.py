"""Tidegate: a store-and-forward telemetry gateway. Start reading at pipeline.py.

__main__.py                 python -m gateway: the same as the command `tidegate`
hangups.py                  SIGHUP from a daemon's first moment to its last: acted on while somebody can, else noted, and never its end
cli.py                      The commands
arguments.py                What each command takes on the command line
daemon.py                   The process around a gateway: signals, logging, memory manners
simulator/                  A plant on this desk: fake devices that knock on the real doors, and a collector that can go away
  collector.py              A small OTLP/HTTP receiver that remembers what it was sent
  demo.py                   `tidegate demo`: the whole story on one desk
  desk.py                   What stands on the demo's desk: a config, a real gateway as a child process, and someone who tells the story
  plant.py                  Fake devices: MQTT clients and one on a serial line
bench/                      The performance suite: every number that is claimed is printed by it
  client.py                 A program with a client inside: what a call takes, how many readings go through, what memory it adds
  allowance.py              Days and months over an allowance, simulated: what is billed, what arrives, and that every reading is somewhere
  client_load.py            A program with a client inside: sends single readings, then arrays, and prints as JSON what that took
  encoding.py               How quickly batches become OTLP requests: P50 and P99 of 10,000 readings in runs of several lengths
  end_to_end.py             A real gateway under load, from the devices' socket to a receiver's: what it takes, costs and leaves behind
  grpc_sink.py              The counting receiver over gRPC: h2 keeps the conversation, calls are counted and answered OK
  line.py                   A line to a receiver in virtual time: real requests over a real socket, which take as long as the line's rate says
  load.py                   A cheap load: QoS 1 PUBLISHes from prebuilt bytes over a few connections, PUBACKs counted by their length
  micro.py                  The parts of the data path by themselves: encoding, wire, segments
  nats.py                   Readings into a real nats-server: from the devices' socket to what a stream holds
  otlp.py                   OTLP in, through the shelf and out again: what programs say of all three signals, in requests of a thousand
  otlp_load.py              A program that sends OTLP: requests of a thousand log records, spans or data points, made once and sent many times
  outage.py                 A day without a link, then one of 64 kbit/s: the first fresh reading, how late live data is, the backlog's share
  paho_peer.py              The peer for the subscriber: paho's own loop, acknowledging and doing nothing else
  plant.py                  A plant whose every reading is known: what it says at any second, and what of that has arrived somewhere
  processes.py              A gateway and a sink as children, and what the operating system says they cost
  report.py                 Runs the measurements, prints a table or JSON, and says which goals were missed
  roads.py                  What uplinks cost each other, and how long their guards think
  segments.py               How fast segments are made and read, and how small they are: `tidegate bench --only segments`
  simulated.py              A shelf, an uplink and a line in virtual time, and what arrives at the line's other end, reading by reading
  sink.py                   A counting OTLP/HTTP receiver: decompresses, counts readings without building one, answers 200
  suite.py                  What the suite measures, in order
  virtual_time.py           An event loop whose time jumps to the next timer instead of waiting; disk and threads take their turns in it
  wire.py                   How many bytes a reading takes on the wire: a minute of 20 devices with 5 metrics at 1 Hz, in one request
client/                     A client: a gateway inside a Python program, so that what the program measures is stored first and forwarded then
  client.py                 The client as a program sees it: send, flush, drain, shut down
  assembly.py               From what a program says to a gateway's configuration
  buffer.py                 What a program has sent and the shelf has not yet: columns that any thread adds to, bounded, and taken all at once
  door.py                   The door of a program that has its gateway inside: what threads have put into the buffer goes to the shelf from here
  doorway.py                Where a program and the gateways in its process meet: each gateway gets a door to the one buffer
  errors.py                 What can be wrong with a client itself
  exporters.py              OpenTelemetry's SDK for Python over a client: its exporters, for whoever instruments a program with it
  records.py                Log records and spans of a program as OTLP messages
  runner.py                 The thread in which a client's gateway lives, from its start to its end
  values.py                 What programs give as times, values and attributes, made into columns' types or refused by name
app.py                      Assembly: build each part, run all in one place, stop in order, feed the watchdog
pipeline.py                 The data path on one screen: arrive, decode, map, detect, append
reporter.py                 Says what was lost, in the log here and upstream, and sends the gateway's own numbers
tracing.py                  Follows single messages through a running gateway, for who asks
sources/                    Doors: bytes arrive here and are acknowledged only when they are kept
  mqtt.py                   A subscriber: takes what a broker has and acknowledges it when it is on disk
  mqtt_intake.py            Arrivals on their way to the disk: many at once, bounded, answered in order
  mqtt_link.py              One connection to a broker: reads in bulk, paces itself, hands out PUBLISHes, sends answers
  mqtt_otlp.py              OTLP requests that come as messages of a broker: kept as they are, past the mappings
  mqtt_server.py            The gateway's own MQTT server: devices publish straight to it, no broker needed
  mqtt_server_admission.py  What to answer a CONNECT: welcome, with what was agreed, or refusal and why
  mqtt_server_auth.py       Who may publish what to the gateway's own MQTT server, and how often one may guess
  mqtt_server_connection.py One client's connection to the gateway's MQTT server
  mqtt_server_holdings.py   Who of the MQTT server's connections holds how many bytes of something
  mqtt_server_hub.py        What the connections of the MQTT server share, and who has which session
  mqtt_server_intake.py     From the PUBLISHes of all connections to the gateway's door, and the answers back
  mqtt_server_line.py       The line to one client of the MQTT server: how much is read at a time, and when nothing is
  mqtt_server_partials.py   What the MQTT server's connections hold of packets that have begun and not ended
  mqtt_server_replies.py    What the MQTT server answers to a packet: pure functions of the packet and the session
  mqtt_server_session.py    What the MQTT server remembers of a client between connections
  mqtt_server_settings.py   Settings of the gateway's own MQTT server, and its side of TLS
  mqtt_server_talk.py       Whose turn it is among clients of the MQTT server that say much and publish nothing
  mqtt_settings.py          Settings of an MQTT subscription, and what a broker's URL means
  mqtt_subscriptions.py     What our session at a broker is subscribed to, remembered across restarts
  mqtt_words.py             What a broker's answers and failures mean, in words for people
  otlp.py                   The OTLP receiver: programs here and nearby send their metrics, logs and traces
  otlp_auth.py              Who may send to the OTLP receiver: a token, a name with its password, or a certificate
  otlp_counts.py            What the OTLP receiver counts: requests, readings by signal, bytes that are on their way
  otlp_grpc.py              OTLP over gRPC at the receiver's door: calls become requests as they come over HTTP, and answers become statuses
  otlp_settings.py          Settings of the OTLP receiver, and its side of TLS
  portion.py                How much to read at a time, so that taking it in does not hold up everybody else
  refusals.py               What an MQTT source turned away, and why: counted by reason, the last of each in words, now and then in the log
  serial.py                 The serial door: frames or lines from a port that may come and go
  serial_explain.py         What a serial line would make of bytes that someone shows it
  serial_link.py            An open serial port on the event loop: buffers in, answers out, bounded
  serial_names.py           How a serial port is named and set; what of it can be known without looking for one
  serial_port.py            Finds, opens and closes serial ports, and says why one cannot be opened
  serial_settings.py        How a serial line is set
  serial_watch.py           What a line's bytes say about its wiring: that it is silent, or brings nothing but noise
  server_tls.py             The server's side of TLS for sources that others connect to: settings, and OpenSSL's context
  window.py                 Whether a sender has stopped because too many of its messages wait for their answer
codecs/                     Words on the wire: bytes become columns and columns bytes
  apart.py                  Mapping apart what could not be mapped together, so that a mistake of ours costs one message
  arrays.py                 Arrays out of payloads become readings, with numpy calls per metric and not per array
  cbor_items.py             What a CBOR payload is made of, looked at without decoding it (RFC 8949, section 3)
  columns.py                Values out of many payloads become one typed column, exactly
  content_encoding.py       Opens what a sender has compressed, piece by piece as it comes
  declared.py               A mapping whose metrics are listed: payloads to columns
  device_time.py            Devices' own times become columns, or arrival stands in for them and says so
  documents.py              Payloads of one mapping become lists of documents, each knowing whose it is
  explain.py                What becomes of one message, in words for people, and whether a mapping's examples are right
  framing.py                Cuts the bytes of a serial line into frames or lines, and reads what frames say
  grpc.py                   gRPC's own words around OTLP: a message's prefix, statuses with their details, deadlines
  leaves.py                 A mapping that takes every number it finds: payloads to columns, metrics named by their paths
  mapping.py                Messages become readings: which mapping takes which topic, then columns per mapping
  mapping_settings.py       What can be set about mappings, and their limits
  otlp.py                   OTLP in protobuf: columns become requests without an object per point
  otlp_answers.py           What receivers answer to OTLP: what was not taken, a no that comes as success, an error's sentence
  otlp_intake.py            A request that a program sends: is it well-formed, what can be kept of it
  otlp_json.py              OTLP as JSON: columns become text, for receivers that want it and for `tidegate export`
  otlp_layouts.py           OTLP messages that are laid out as one before: only times and values differ, and are taken without walking the rest
  otlp_messages.py          OTLP messages that are passed on as they came: counted, cut and given attributes without being read
  otlp_messages_json.py     OTLP messages that are passed on, as JSON and back, by the official classes
  otlp_points.py            Number points of OTLP metrics as columns, for who watches them: gauges and sums, read where they stand in a message
  otlp_replies.py           What a receiver of OTLP answers, in protobuf or JSON: taken, taken in part, or why not
  paths.py                  Where in a document a value stands: paths like a.b[0].c
  payloads.py               Payloads become documents: JSON, CBOR, text, CSV, from bytes that anyone may have sent
  protobuf.py               Protobuf by hand: varints, tags and fields, written and read
  readings_json.py          Readings as JSON, a message of its own for each, with its topic; made in columns, some bytes for all
  routes.py                 Which topic goes where, remembered: topics that are used again and again stay
  routing.py                What the parts of mapping hand each other: topics that were looked up, work to do, and what came out of it
  series_table.py           Series numbers of a mapping as a table, metric by topic, filled as readings come
  shapes.py                 JSON objects that look alike are decoded as one class: the fast path behind `fields`
  structs.py                Wanted paths become a msgspec class that decodes them alone, and readers of whole columns
  timing.py                 A mapping's `time`, ready to use: the paths it wants, and the times of items and of arrays
  topics.py                 Topic patterns with captures, and texts that are filled in from them
  walking.py                Every number in a document, with its name: the walk behind `fields`
  zstd.py                   zstd behind one door: the standard library's from Python 3.14 on, its backport below
detect/                     Watchers: columns in, scores out
  engine.py                 Watches batches: which detector sees which series, what it found
  gate.py                   Turns scores into findings: threshold, habituation, silence
  rows.py                   From series' numbers to rows of state: a hash table of two numpy arrays
  saved.py                  Arrays as bytes and back, for state that survives a restart
  settings.py               What can be set about watchers
  statistics.py             Detectors without a model, for many series at once: z-score, quartiles
store/                      The shelf: what was accepted is kept here, in SQLite, until every uplink has it
  accounts.py               Counting: accepted = delivered + held + ledger + left_out for each uplink, in the state row
  allowance.py              Allowance: how many readings an uplink may lease before the next commit, as the state row on the disk says it
  apart.py                  What is left of leases when all else of them has arrived: it gets segments of its own, which one uplink lacks alone
  asides.py                 Files that were set aside for a person to look at: how they are called, how many are kept, which make way
  asking.py                 Answers about single segments and payloads, over the connection that cannot write
  closing.py                Closing a store: what this process forgets is said, or noted where the next one finds it
  coarsening.py             Segments that follow each other become one of half their size at most: joined, and thinned no more than that needs
  columns.py                Readings as bytes: run directory, time column, value column, before compression
  committer.py              The one who writes: gathers what waits, makes room, commits, and lets it take effect
  connection.py             SQLite as the shelf uses it: directory lock, pragmas, numbered schema files
  database.py               The store: what was accepted stays here until every uplink has it
  decimals.py               Doubles as integers: which runs of doubles are decimals, singles or neither
  diluting.py               What of a full shelf is written anew, in which order: many small ones as one first, then thinned
  disks.py                  The disk below the state directory: where it is mounted, what it has left, what to tell people when it fails them
  drawer.py                 A drawer: rows set aside for a person to look at, bounded in bytes, the oldest making way
  effects.py                What a commit does to what is in memory: kept from being leased, given back if it fails, gone or changed if not
  evidence.py               What a database file and its log say of each other, looked at before SQLite opens them
  files.py                  Files in the state directory: none of ours may be a link out of it
  filling.py                Rows of a damaged database into a new one: those that are held for certain first, then those that only may be
  forgetting.py             Forgetting series that nobody uses: what is asked before, and what a commit takes with it
  frozen.py                 A shelf that cannot be written: what is held is read and sent, what was sent is remembered in memory
  gathering.py              What comes in between two commits: gathered, bounded, compressed while more is coming
  handful.py                A handful of readings as columns, number by number: what store/columns writes, without its cost for few
  integers.py               Integers in few bytes: differences, common divisors, byte planes
  keeping.py                Housekeeping: who goes when the shelf is full or something too old, which boots nobody needs
  leases.py                 Leasing: what an uplink sends next, and what it has in hand
  leaving.py                What is held for an uplink that it takes no more, or never did, is left out: looked for at a start, once
  lineage.py                Whether what was written anew on the shelf is what it says: what verify knows it by from what was tampered with
  membership.py             Who is configured: uplinks that come, go and come back, and what becomes of what is held for them
  moments.py                Which segment was the next one at which moment, for the last minutes; and what lies around findings
  names.py                  The names of series once more, in a file apart from the database: how it is laid out, and reading it
  naming.py                 Writing the file of names (store/names): after the commit that brought them, without a sync of its own
  notebook.py               A few bytes of each uplink's own that are written with every commit: what it wants to know after a restart
  opening.py                Opening the shelf: what it holds is read, and brought in line with the uplinks and the boot of today
  pace.py                   When a commit is due: how long arrivals wait for others to share it
  pagefile.py               A database file and its log as pages and rows, read without SQLite
  pages.py                  SQLite's file format, read by hand: pages, rows and log frames of a file that SQLite itself gives up on
  peeking.py                Looks into single tables of a shelf that may be in use, without a copy of it
  planning.py               One commit on paper: what it changes in the accounts, and what it writes
  policy.py                 What goes next and what has to go: leases by lane and class, evictions
  presence.py               Whether the files that are open are still those at their paths
  quota.py                  A bounded stock and several owners: half is for whoever comes first, half is divided evenly
  reached.py                How far the shelf has come, noted in a small file beside it: a log that is cut cannot take that along
  reading.py                Looking at a shelf from outside: `verify` and `read_held`
  recent.py                 The newest segments, at hand: what keeps up is read from memory, not from the disk
  reckoning.py              The accounts after a salvage: how much is lost at least and at most, and how the books are balanced with that
  records.py                The words of the shelf: losses, leases, and where a segment stands
  rewriting.py              What takes the place of segments on the shelf: what it says of them, and what is remembered of it
  rivals.py                 After a salvage: of a segment that was written anew and what it stands for, which was there before it, one stays
  room.py                   Room on the disk: what is used, what may be used, and who has to go
  rows.py                   Rows of the shelf as leases want them: who reads them, how many fit, whether they are whole
  runs.py                   Runs: readings of one series with the same flags, side by side
  salvage.py                Salvage: a damaged database is moved aside, what can be read of it goes into a new one
  segments.py               Sealed batches: versioned header, compressed columns, checksum, hash of the one before
  series.py                 The registry: series ↔ small numbers, all in memory, new ones waiting for the next commit
  settings.py               How the shelf is bounded: the `[store]` table of the configuration
  settling.py               What becomes of leases: delivered, refused, given back
  shelf.py                  Reading segments for leases, over a connection that cannot write
  snapshots.py              A copy of a shelf that may be in use, as of one moment, made without a lock
  spans.py                  Spans of numbers that do not meet: a few pairs of first and last
  spots.py                  Where an uplink looks for what it sends next: spots, and which stretch of one it looks at
  starting.py               Starting, whatever the last power cut left behind: salvage a shelf that is not whole, say why it cannot be opened
  surroundings.py           What a store is given from outside
  survey.py                 Which pages of a damaged file are in use: the tree of each table leads to them, or nothing says that they are free
  taking.py                 What an uplink takes: which classes, which signals, what which mappings make
  thinnable.py              Which segments may be thinned together: those of columns
  times.py                  The time column of a segment: steps, shared or ranked times
  triage.py                 What of a damaged shelf is kept where the disk has no room for all of it: the most important first, then the newest
  trouble.py                What keeps the shelf from writing: a sentence for the status, said in the log when it begins and when it ends
  unwanted.py               What no uplink takes, on a full shelf: nobody misses it, so it makes room before anything that is still to be sent
  unwritten.py              What left while nothing could be written: noted beside the disk, so that the next process does not send it again
  uses.py                   When each series was used last, and which of them may be forgotten: columns and choices
  values.py                 The value column of a segment: every value an integer in few bits
  verdict.py                What `verify` says of a shelf
  waiting.py                Who waits at the shelf: for room to put something down, or for enough to take away
  writer.py                 Group commit: everything that waits becomes one transaction, then all return
uplinks/                    Roads: what is held leaves here, fresh first, and is let go only when the far side has it
  allocation.py             How a budget is shared out: what goes whole, what at longer intervals, what thinned
  balance.py                Which of several receivers is next: failover, round robin, weighted, least outstanding
  breaker.py                A circuit breaker: whether to try somebody who fails, decided from how requests ended
  bridge.py                 An MQTT broker as the far side of an uplink: a request goes as one message or as many
  bridge_dial.py            How a connection to a broker comes about, and what it means when it does not
  bridge_encoder.py         What an uplink to a broker or NATS writes: readings one by one or as OTLP, and all else as OTLP
  bridge_line.py            One connection to a broker, from a thread that may wait: bytes go, answers come
  bridge_outcome.py         What became of a request that went as messages: an answer, or what to do next
  bridge_reasons.py         What a broker's reason codes mean for a publisher: fine, later, hold, split, refuse
  bridge_settings.py        What can be said of an uplink to an MQTT broker in the config, and what is refused by name
  bridge_shipment.py        One request as messages that a broker answers one by one: what is next, under way, taken, refused
  budget.py                 Budgets: how many bytes may go over a link in an hour, a day and a month, and how many went
  budget_settings.py        What can be said of an uplink's or a link's budget in the config
  clock_wait.py             Waiting for a clock: what is held has no right times yet, and a receiver's answer may bring one
  delivery.py               Delivery: lease, send, and let go only of what the far side has
  endings.py                What becomes of a lease in hand: settled, given back, put off, or held with its signal
  endpoint_settings.py      What can be said of receivers in the config: their addresses, weights, and when one is left out
  endpoints.py              Several receivers as one: a wire of wires, each with its own connection, breaker and health
  file_folder.py            A directory on a stick that may not be there: opened anew for each record, and never written to below a mount point
  file_note.py              What an uplink of files notes with every commit: up to where its files hold what counts as delivered
  file_records.py           Requests as records of a file: each is whole by itself, and a reader finds where the next one begins
  file_settings.py          What can be said of an uplink that writes files, on a stick or a share, in the config
  file_wire.py              A wire to files: each request is a record that is on the medium before it counts as taken
  flow.py                   What is known of one class over a budget: how much of it comes in, how it comes, and what it costs
  free.py                   Free hours: when of a day what goes over a link costs nothing, as a tariff has it at night
  fresh_first.py            Whether fresh data goes between the requests of a lease that takes several
  grpc_sender.py            The sender of OTLP/gRPC: packed requests go out as unary calls over one kept connection
  grpc_statuses.py          What to do after each status of gRPC: the same decisions as `guards.py` makes after HTTP's
  guards.py                 What to do after each answer: fine, later, hold, split, refuse
  health.py                 How one receiver of an uplink is: whether it may be asked, and what is known of it
  link_notes.py             What links have spent, in a file of its own: a link belongs to no uplink, and outlives each
  link_probe.py             Asks a server whether a link carries anything: one connection that says nothing
  link_settings.py          What can be said of a link in the config: how it is told to be up, and whether it is paid
  linked.py                 A sender that holds a sender: what it sends leaves by the link that the uplink uses now
  links.py                  The links of this box: which of them are up, which one each uplink uses, and why
  lost_notes.py             What a link is taken to have spent whose notes are damaged: rather too much than a bill twice
  metered.py                A sender that holds a sender: nothing leaves that is not paid, nor faster than it may
  nats.py                   NATS JetStream as the far side of an uplink: a request goes as messages, each under its id
  nats_builder.py           From a lease to messages for a stream: decoded segment by segment, so that ids stay
  nats_discovery.py         Servers that a NATS cluster tells of, and which of them may be gone to
  nats_pieces.py            What goes in one message to a stream, under an id that says which readings these are
  nats_reasons.py           What a stream's answer, or a server's -ERR, means for a publisher: later, hold, split, refuse
  nats_settings.py          What can be said of an uplink to NATS JetStream in the config, and what is refused by name
  nats_shipment.py          One request as messages that a stream answers one by one: what is next, under way, stored, refused
  nats_silence.py           Subjects at which no stream listens: what goes there waits, and how often it is tried again
  outages.py                Whether a way is one just now: what failed, since when, and how long to wait for it
  pacer.py                  A rate that is kept from piece to piece, by one sender or by several that share a line
  pacing.py                 How much to send at once and how hard to compress it: decisions from what was measured
  parked.py                 Leases in hand whose rest has to wait while others go
  partly.py                 A request of which a part was taken: that part comes off the hand, the others stay
  parts.py                  Parts of a lease: what may go in one request, of each kind, and how it is halved
  publishing.py             What uplinks that publish have in common in the config: keys, several addresses, names that are filled in
  purse.py                  What an uplink over links pays from: its own budget, and that of the link that it uses
  ration.py                 How much of an allowance may go for asking whether a way carries anything: a small part of it
  requests.py               From a lease to request bodies: decode, repair times, mark, encode, split
  rests.py                  What is left of leases that nobody hears, as it stands in their segments: so the store can keep it apart
  retry.py                  How long to wait after failures: four schedules, and who counts along one of them
  scheduling.py             What an uplink with a budget may send just now, and why: measured, then decided by `allocate`
  senders.py                The sender of OTLP/HTTP: packed requests go out over one kept connection
  sending.py                From a lease in hand to the far side: encode, then compress and post in the thread
  settings.py               What can be said of an uplink in the config, and what is refused by name
  speed.py                  How fast a way is, as an uplink's own sends show it: bytes a second, and the round trip
  spending.py               An uplink's budget beside its wire, store and clock: what pays, what decides what goes, and waits
  state.py                  What an uplink knows of itself: what people ask about it, what it counts, which signals it holds back
  suspects.py               The series that a server failed at lately: what comes of them next goes apart from the others
  terms.py                  What every kind of uplink has in its settings: what delivery asks of them
  turns.py                  Whose turn it is: what is in the store, or in hand and waits
  verdicts.py               Whether what was refused is given up: a refusal may be about the data, or about a road that takes nothing
  waits.py                  What an uplink waits for after a failure: time, a network, a clock, a commit, the next window
  watching.py               Waiting for an answer: cut one that is overdue, know whether answers come at once
  windows.py                One window of a budget, an hour, a day or a month: when it begins and ends, and what went in it
  wires.py                  What all senders have: one kept connection, what it costs, when it is given up, and what its failures mean
  worker.py                 One thread for an uplink's blocking work: compress and send
control/                    Windows: people and servers look in here
  aside.py                  `tidegate quarantine`: what was set aside, for people and for programs
  asking.py                 Ask a running gateway for one of its pages of JSON, as commands do
  backlog.py                What is still held in a state directory that is left for another: nobody sends it from there
  certificates.py           Looks at TLS files as `run` will
  check.py                  All that `tidegate check` says: what cannot work, and what is perhaps not meant
  clocks.py                 What is said to people of the box's clock
  config.py                 Loads a configuration and says all that is wrong with it at once
  draining.py               How long until what is held is gone, from how it shrank in the last minutes
  environment.py            What the configuration leaves out of an OTLP uplink, from OpenTelemetry's own variables
  explaining.py             What becomes of one message, offline: by a mapping, or past them as OTLP
  export.py                 `tidegate export`: what is held, as OTLP JSON lines in a file
  exposition.py             Numbers as Prometheus text, format 0.0.4: families in, lines out
  extras.py                 Whether the packages are here that only some configurations need
  fitting.py                Makes the bounds of memory fit a board: what waits for the disk, and what is kept at hand
  flash.py                  How much may be written to flash: a day's allowance, and what the pace of commits does to keep within it
  footprint.py              What this process takes of the machine, memory and flash, held against its board's limits
  init.py                   `tidegate init`: a configuration for this box from a few answers
  instruments.py            Every metric of /metrics: its name, kind, labels and meaning
  later.py                  Words of the configuration that are planned and not in this version yet
  linked.py                 What the configuration says of links: names that are not there, and what is perhaps not meant
  live.py                   `tidegate trace`: follows messages through a running gateway and shows each
  loops.py                  Whether what an uplink publishes to a broker comes in again by a source of the same gateway
  manual.py                 Pages made from the code: JSON Schema, example, docs/CONFIGURATION.md, docs/METRICS.md
  metrics.py                The gateway's numbers as Prometheus text
  process.py                What the kernel says of this process, under the names that every Prometheus exporter uses
  profiles.py               Hardware profiles: the limits that go with a board, from hw_profiles/*.toml
  reach.py                  Which topics can arrive, and which mapping they reach: what no mapping takes, and mappings that take nothing
  reading.py                Reads tables into settings classes and finds every problem at once
  server_time.py            What receivers' answers say of the time of day, where no time server vouches for the clock
  settings.py               The whole configuration as one class, composed of the rooms' own
  sizing.py                 How long a disk and a link last: the arithmetic behind `tidegate size`
  sticks.py                 Looks at where uplinks of files would write: whether that is the disk they are meant for
  summary.py                `tidegate status` for people: the running gateway's status, laid out
  taken.py                  Which uplink takes what of all that can come in: what `check` says of it, and what the store and the mapper are told
  ways.py                   What goes over the ways of an uplink in a day, by budgets and links: for `tidegate size`
  web.py                    The window over HTTP: /healthz, /readyz, /metrics, /status, /trace
net/                        Wires that everyone shares
  addresses.py              Where to listen, as people write it
  connections.py            The connections of a listener: how many there are, which make way, and how they end
  deadline.py               A moment by which something is over, handed down: who gets one never has more than is left
  devices.py                This box's network devices: is one up, does it have an address, where does the default route lead
  files.py                  Small files that are written whole, and never through a link: what has a name of ours may not lead elsewhere
  http.py                   HTTP/1.1 as an uplink speaks it: one POST at a time over one kept connection
  http2.py                  HTTP/2 as an uplink speaks it: one request at a time over one kept connection
  http2_frames.py           What a client's bytes are cut into, seen before they are taken apart: a few frames at a time, none of them endless
  http2_requests.py         What a request of HTTP/2 is made of: its head, and its body as it comes
  http2_server.py           HTTP/2 as a receiver speaks it: several requests at a time over kept connections
  http_requests.py          What an HTTP/1.1 request is made of: its head, and its body as it comes
  http_server.py            HTTP/1.1 as a receiver speaks it: requests with bodies over kept connections
  imports.py                What a daemon loads of libraries: not what only people read, nor what nothing that runs ever asks
  interfaces.py             Hears from the kernel that this box has a network again: a link that is up, an address, a route
  line.py                   A connection of an uplink: TCP, a proxy and TLS, its waits and what it has cost
  listeners.py              Opens the sockets of a listener, and takes connections from them
  mqtt.py                   MQTT packets cut from a byte stream, PUBLISHes in bulk as columns
  mqtt_address.py           What a broker's URL means
  mqtt_bulk.py              Many messages to a broker at once: PUBLISHes made of columns, and their PUBACKs read as columns
  mqtt_fields.py            What MQTT packets are made of: reason codes, errors, numbers, texts, properties
  mqtt_oversize.py          A PUBLISH that is larger than may be taken, while it is read past
  mqtt_packets.py           MQTT packets beside PUBLISH, read and written: CONNECT, SUBSCRIBE, DISCONNECT and the answers
  nats.py                   NATS on the wire: what a server says, taken apart, and what a publisher says to it
  nats_address.py           What the URL of a NATS server means, and which others may be gone to
  nats_line.py              A connection to a NATS server, from a thread that may wait: it is greeted, and answers its questions
  nkeys.py                  NKeys: who a NATS client is, by a key of Ed25519 that never leaves the box
  paho_client.py            A paho client that takes bytes in bulk; the one place that touches paho's private parts
  ports.py                  A port that nobody listens on, for the demo and the benchmark
  quiet.py                  Keeps headers out of the log: hpack writes each of them there, tokens too, for who listens to all that there is
  secrets.py                Secrets by reference: an environment variable, a file, a systemd credential
  systemd.py                Tells systemd how the service is (sd_notify(3)); elsewhere nothing
  tls.py                    OpenSSL is loaded only where TLS is configured: five megabytes that a plain road does without
  wire_bytes.py             What a TCP connection has cost on the wire, and its round trip, as the kernel has them
core/                       Ground: the words that every room speaks
  batch.py                  Columns: many readings of many series at once, and what a series is
  checks.py                 What can only be wrong with settings as a whole: checks that name the fields they look at
  clock.py                  Time: the only place that asks a clock, and the repair of times stamped before the clock was right
  contracts.py              What rooms promise each other: the four errors that cross walls, arrivals, and who may be called how
  progress.py               How far long work is, for whoever waits at a terminal
  ragged.py                 Rows of many pieces of text put together in bulk, without an object per row
  telemetry.py              The gateway's own counters, numbers that status and Prometheus read
  text.py                   Foreign text made fit for one line of a log or a terminal
  thinning.py               Thinning: of each series and step of time the first, least, greatest and last reading stand for all
  threads.py                Threads for what blocks, in a program whose main thread may have ended
  timeouts.py               Timeouts that hold in a task that is being cancelled, too: what asyncio's do from Python 3.11.3 on (gh-102780)
  turns.py                  Turns of the event loop: who has taken long lets others have theirs before going on
  units.py                  Durations, sizes and rates as people write them
  words.py                  Numbers for people: sizes, time spans, and how many of what
otlp_watch.py               Has the number points of OTLP metrics watched as devices' readings are
parts.py                    What the assembly asks of its parts, and of a program that has a gateway inside of it
roads.py                    Builds each uplink of a configuration, with the wire that its kind needs and no other loaded
supervision.py              Keeps parts running: one that fails is started again, one that does not stop keeps nobody waiting
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.client import Client

__version__ = "0.1.0"
__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> object:
    """Bring the client when somebody asks for it: whoever runs a gateway has no use for it, and it is memory."""
    if name == "Client":
        from gateway.client import Client  # noqa: PLC0415  see above

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
