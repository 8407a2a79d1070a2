package process

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build makes a command of the module topostream in a directory, and gives its path. Its source is what the working
// directory is in, or the module in source if that is not empty.
func Build(ctx context.Context, source, dir, command string, flags ...string) (path string, err error) {
	path = filepath.Join(dir, command)
	args := append([]string{"build", "-o", path}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "topostream/cmd/"+command)...)
	cmd.Dir = source
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", command, err, strings.TrimSpace(string(out)))
	}
	return path, nil
}
