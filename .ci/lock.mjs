// Completes package-lock.json after an update from a registry that lacks the binaries of other platforms: npm then
// leaves those optional packages out of the lock file, and `npm ci` refuses it. Run: node .ci/lock.mjs
import { readFileSync, writeFileSync } from "node:fs"

const platform = /[-/](aix|android|darwin|freebsd|linux|netbsd|openbsd|openharmony|sunos|win32)-([a-z0-9]+)(?:-(\w+))?$/

const lock = JSON.parse(readFileSync("package-lock.json", "utf8"))
const added = {}
for (const { dev, optionalDependencies = {} } of Object.values(lock.packages)) {
  for (const [name, version] of Object.entries(optionalDependencies)) {
    const path = `node_modules/${name}`
    const [, os, cpu, abi = ""] = platform.exec(name) ?? []
    if (lock.packages[path] !== undefined || os === undefined) continue
    const libc = os !== "linux" ? undefined : abi.startsWith("musl") ? "musl" : abi === "" ? undefined : "glibc"
    added[path] = {
      version,
      cpu: [cpu],
      ...(dev ? { dev } : {}),
      ...(libc === undefined ? {} : { libc: [libc] }),
      optional: true,
      os: [os]
    }
  }
}
const packages = Object.entries({ ...lock.packages, ...added }).toSorted(([a], [b]) => a.localeCompare(b, "en"))
writeFileSync("package-lock.json", JSON.stringify({ ...lock, packages: Object.fromEntries(packages) }, null, 2) + "\n")
console.log(`${Object.keys(added).length} platform packages added`)
