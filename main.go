// Command urbandata is an auth server that signs tokens with rotating keys,
// and a properties API that verifies them offline. `urbandata --help` lists
// what it does.
package main

import (
	"os"

	"github.com/urbandata/urbandata/pkg/cli"
)

func main() { os.Exit(cli.Main()) }
