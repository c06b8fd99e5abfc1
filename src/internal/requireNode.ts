/**
 * Ends the process with a clear message when Node is too old, before anything else of the command runs.
 *
 * `cli.ts` imports this module first: the modules after it may need what an old Node does not have.
 *
 * @internal
 */
const [major = 0, minor = 0] = process.versions.node.split(".").map(Number)

if (major < 22 || (major === 22 && minor < 19)) {
  process.stderr.write(`breakwater needs Node 22.19 or newer; this is ${process.versions.node} (${process.execPath})\n`)
  process.exit(2)
}
