package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/config"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func initCommand(e *env) *cobra.Command {
	var agent, image string
	cmd := &cobra.Command{
		Use: "init [NAME]", Short: "Write an " + configFile + " for this directory", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			name, err := initName(args)
			if err != nil {
				return err
			}
			data := config.Template(name, agent, image)
			if _, err := config.Parse(data, configFile); err != nil {
				return err
			}
			f, err := os.OpenFile(configFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if os.IsExist(err) {
				return sandbox.Errorf(sandbox.Exists, "edit it, or delete it first", "there is an %s already", configFile)
			}
			if err != nil {
				return fmt.Errorf("write %s: %w", configFile, err)
			}
			defer f.Close()
			if _, err := f.Write(data); err != nil {
				return fmt.Errorf("write %s: %w", configFile, err)
			}
			if e.json {
				return e.printJSON(map[string]string{"file": configFile, "name": name})
			}
			fmt.Fprintf(e.out, "wrote %s for sandbox %q; next: agentkernel create --project .\n", configFile, name)
			return nil
		},
	}
	cmd.Flags().StringVar(&agent, "agent", "claude", "coding agent: "+strings.Join(sandbox.Agents, ", "))
	cmd.Flags().StringVar(&image, "image", sandbox.DefaultImage, "image name, or path of an image file")
	return cmd
}

var notInName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[^a-z0-9]+`) })

// initName is the argument, or else this directory's name with what a sandbox's name cannot have taken out.
func initName(args []string) (string, error) {
	if len(args) == 1 {
		return args[0], sandbox.ValidateName(args[0])
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find this directory: %w", err)
	}
	return nameOfDir(dir), nil
}

// nameOfDir is a directory's own name, as a sandbox or an image may have it.
func nameOfDir(dir string) string {
	name := strings.Trim(notInName().ReplaceAllString(strings.ToLower(filepath.Base(dir)), "-"), "-")
	if len(name) > sandbox.MaxNameLen {
		name = strings.Trim(name[:sandbox.MaxNameLen], "-")
	}
	if name == "" {
		name = "my-project"
	}
	return name
}
