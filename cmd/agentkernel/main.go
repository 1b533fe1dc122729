// Agentkernel gives each coding agent a microVM of its own.
package main

import (
	"os"

	"github.com/agentkernel/agentkernel/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
