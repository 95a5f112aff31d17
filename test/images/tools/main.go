// Command compose-config reads a Compose file and prints it as JSON, with the services of the profiles that follow it,
// as `docker compose config` does: it ends with 1 where the file does not fit the Compose Specification or itself.
// Usage: compose-config FILE [PROFILE …]
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "Usage: compose-config FILE [PROFILE …]")
		os.Exit(2)
	}
	text, err := config(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "compose-config:", err)
		os.Exit(1)
	}
	fmt.Println(string(text))
}

func config(file string, profiles []string) ([]byte, error) {
	// Without the environment and .env: the defaults of the file are what is read.
	options, err := cli.NewProjectOptions([]string{file}, cli.WithProfiles(profiles))
	if err != nil {
		return nil, err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return nil, err
	}
	return project.MarshalJSON()
}
