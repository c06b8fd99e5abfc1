// Imports every module of the installed package through its public name.
import { globSync } from "node:fs"

const dist = "node_modules/breakwater/dist"
const names = globSync("**/*.js", { cwd: dist, exclude: ["cli.js", "**/index.js", "internal/**"] })
for (const name of ["", ...names.map((file) => `/${file.slice(0, -3)}`)]) await import(`breakwater${name}`)
console.log(`imported breakwater and its ${names.length} modules`)
