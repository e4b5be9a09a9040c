// Package docs keeps what the repository says about itself true: its tests
// read README.md, docs/, compose.yaml and the Dockerfile, and hold them
// against the real binary. There is nothing here but tests.
//
//   - links lead somewhere
//   - every command, flag, variable and metric that is named exists, and every
//     one that exists is in docs/operations.md
//   - the shell blocks marked <!-- run --> run, in order, against `up`, and
//     every curl in them is answered 2xx
//   - the programs and configurations that a page shows are the files below
//     docs/verify, which package thirdparty runs
//   - the services of compose.yaml start with what it sets
//   - the SQL that starts a new ring of keys does so
//
// The blocks need bash, curl and openssl.
package docs
