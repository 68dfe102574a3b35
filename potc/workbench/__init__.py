"""What authors of rule files work with: tests of rules, pages of operators, start files, imports."""
