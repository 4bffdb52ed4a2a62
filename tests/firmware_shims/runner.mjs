// Runs a MicroPython program in the WebAssembly VM: node runner.mjs VM FOLDER MAIN [PORT]
//
// VM is the package's micropython.mjs; everything in FOLDER is copied into the VM's file system, MAIN is run as
// an asyncio program. With PORT, a tty's path, the module `host` has read() and write(), both in hexadecimal,
// both without waiting. Exits with SystemExit's code, 1 for any other exception.

import * as fs from "node:fs";
import * as path from "node:path";
import { pathToFileURL } from "node:url";

const [vmPath, folder, main, portPath] = process.argv.slice(2);
const { loadMicroPython } = await import(pathToFileURL(vmPath).href);

const vm = await loadMicroPython({
    heapsize: 1 << 20,
    linebuffer: true,
    stdout: (line) => console.log(line),
    stderr: (line) => console.error(line),
});

function copy(from, to) {
    for (const entry of fs.readdirSync(from, { withFileTypes: true })) {
        const source = path.join(from, entry.name);
        const target = `${to}/${entry.name}`;
        if (entry.isDirectory()) {
            vm.FS.mkdir(target);
            copy(source, target);
        } else {
            vm.FS.writeFile(target, fs.readFileSync(source));
        }
    }
}
copy(folder, "");

if (portPath) {
    const flags = fs.constants.O_RDWR | fs.constants.O_NOCTTY | fs.constants.O_NONBLOCK;
    const port = fs.openSync(portPath, flags);
    const buffer = Buffer.alloc(4096);
    const orNothing = (call) => {
        try {
            return call();
        } catch (error) {
            if (error.code === "EAGAIN") return 0;
            throw error;
        }
    };
    vm.registerJsModule("host", {
        read: (bytesMax) => buffer.toString("hex", 0, orNothing(() => fs.readSync(port, buffer, 0, bytesMax, null))),
        write: (hex) => orNothing(() => fs.writeSync(port, Buffer.from(hex, "hex"))),
    });
}

try {
    await vm.runPythonAsync(fs.readFileSync(main, "utf8"));
} catch (error) {
    const text = String(error.message ?? error);
    const exit = /SystemExit: ?(\d*)/.exec(text);
    if (exit) process.exit(Number(exit[1] || 0));
    console.error(text);
    process.exit(1);
}
process.exit(0);
